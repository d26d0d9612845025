{{/* Names, labels, the image and the environment, which several manifests share. */}}

{{- define "weir.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 50 | trimSuffix "-" }}
{{- end }}

{{- define "weir.fullname" -}}
{{- $name := include "weir.name" . -}}
{{- $whole := ternary .Release.Name (printf "%s-%s" .Release.Name $name) (contains $name .Release.Name) -}}
{{- default $whole .Values.fullnameOverride | trunc 50 | trimSuffix "-" }}
{{- end }}

{{- define "weir.selectorLabels" -}}
app.kubernetes.io/name: {{ include "weir.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{/* Of Weir's own pods: those of `helm test` have the other labels too. */}}
{{- define "weir.serverLabels" -}}
{{ include "weir.selectorLabels" . }}
app.kubernetes.io/component: server
{{- end }}

{{- define "weir.workerLabels" -}}
{{ include "weir.selectorLabels" . }}
app.kubernetes.io/component: worker
{{- end }}

{{- define "weir.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{ include "weir.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end }}

{{- define "weir.image" -}}
{{- .Values.image.repository }}:{{ default .Chart.AppVersion .Values.image.tag }}
{{- with .Values.image.digest }}@{{ . }}{{ end }}
{{- end }}

{{- define "weir.serviceAccountName" -}}
{{- default (ternary (include "weir.fullname" .) "default" .Values.serviceAccount.create) .Values.serviceAccount.name }}
{{- end }}

{{- define "weir.secretName" -}}
{{- ternary (include "weir.fullname" .) .Values.secret.name .Values.externalSecret.enabled }}
{{- end }}

{{/* Setting: key of the Secret, as YAML; settings that are given as values are not among them. */}}
{{- define "weir.secretSettings" -}}
{{- if .Values.externalSecret.enabled }}
{{- range $setting := keys .Values.externalSecret.data | sortAlpha }}
{{- if not (hasKey $.Values.settings $setting) }}
{{ $setting }}: {{ $setting }}
{{- end }}
{{- end }}
{{- else if .Values.secret.name }}
{{- range $setting, $key := .Values.secret.settings }}
{{- if not (hasKey $.Values.settings $setting) }}
{{ $setting }}: {{ $key }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}

{{/* Large numbers stay as they are written, and $ is no reference to another variable. */}}
{{- define "weir.env" -}}
{{- range $setting, $value := .Values.settings }}
- name: {{ $setting }}
  value: {{ ternary $value (toJson $value) (kindIs "string" $value) | replace "$" "$$" | quote }}
{{- end }}
{{- if and .Values.models.existingClaim (not (hasKey .Values.settings "MODEL_PATH")) }}
- name: MODEL_PATH
  value: /models
{{- end }}
{{- range $setting, $key := include "weir.secretSettings" . | fromYaml }}
- name: {{ $setting }}
  valueFrom:
    secretKeyRef:
      name: {{ include "weir.secretName" $ }}
      key: {{ $key }}
{{- end }}
{{- with .Values.extraEnv }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{/* What Weir's own pods reach, those that serve and those that work. */}}
{{- define "weir.egress" -}}
# DNS, wherever it runs: in kube-system, on the node, on OpenShift at port 5353.
- ports:
    - {port: 53, protocol: UDP}
    - {port: 53, protocol: TCP}
    - {port: 5353, protocol: UDP}
    - {port: 5353, protocol: TCP}
# Providers and secrets managers, and the stores.
- ports:
    - port: 443
    {{- range .Values.networkPolicy.storePorts }}
    - port: {{ . }}
    {{- end }}
{{- with .Values.networkPolicy.extraEgress }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- define "weir.containerSecurityContext" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end }}
